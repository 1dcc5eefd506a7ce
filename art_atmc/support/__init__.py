"""What knows nothing of networks: randomness, terminals, files, versions, statistics."""
