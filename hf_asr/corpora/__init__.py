"""Public corpora, one file each: where their archives are published, and how their layout is read."""
