"""What the reference says of responses: its cache on disk, and the reference let go once all is cached."""
