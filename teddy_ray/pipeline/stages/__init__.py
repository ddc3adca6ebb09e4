"""The stages, a module each: ``tasks`` says what there is to do, ``work`` does one of them and commits its record."""
