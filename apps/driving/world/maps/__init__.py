"""Towns as OpenDRIVE: read, checked, generated; lanes, signals and footways as arrays."""
