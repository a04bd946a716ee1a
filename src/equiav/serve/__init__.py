"""A library and its models over HTTP; needs the extra `equiav[serve]`."""
