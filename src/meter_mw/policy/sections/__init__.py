"""The sections of a policy file, one file each: what a section may say, and the values it becomes."""
