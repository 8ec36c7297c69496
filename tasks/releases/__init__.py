"""What is published: made, signed, verified, fetched."""
