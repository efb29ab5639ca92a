"""From files to RGB images: listing, content keys, decoding."""
