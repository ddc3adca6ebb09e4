"""Runs on a Kubernetes cluster with KubeRay: what an administrator has set, the RayJob of a run, and how it fares.

settings   what the Helm release left in the namespace, changed by the user's config file and flags
render     a run and the settings as the RayJob that is sent; pure
api        the few calls of the Kubernetes API that we make
state      what a RayJob's status means; pure
diagnosis  why it waits or failed, from its pods and events, in words; pure
"""
