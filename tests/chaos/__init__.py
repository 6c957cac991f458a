"""Everything is killed, frozen, cut and rolled back at random; what was served is what was billed."""
