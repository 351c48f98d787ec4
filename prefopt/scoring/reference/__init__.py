"""The reference's states: run, cached on disk, and the reference unloaded once all are cached."""
