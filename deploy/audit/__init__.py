"""What is known about the packages that we install. Its tools have a lock of their own, as the peers do."""
