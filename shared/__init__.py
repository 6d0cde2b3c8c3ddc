"""What producer and consumer have in common: words, wire formats, settings and the broker."""
