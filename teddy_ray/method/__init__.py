"""The method itself, on tensors and with torch alone. Read it beside the paper.

In this order:

statistics    what BatchNorm sees of a batch
matching      Eq. 7, the distance between synthetic images and one model of the real data
pool          Algorithm 1's two branches: which checkpoints (prior), and statistics after pruning (post)
initial       the images that the loop starts from, and the real images that it is compared with
synthesis     Algorithm 1's while loop
labels        Algorithm 1's last line: the labellers' answer for every view
training      models trained on real data, and students on synthetic data
views         one augmented look at an image, named by (seed, image, view)
randomness    numbers that depend on their name alone, so that no answer depends on who computes it
pixels        between stored bytes and what a model sees
"""
