"""S3: objects, conditional writes, files in parts."""
