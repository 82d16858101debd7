"""Running text: files and registered sources, cut into parts, windows, pairs and streams."""
