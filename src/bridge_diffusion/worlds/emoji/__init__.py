"""The emoji world: real pictures, real multilingual captions, an English model and its bridges."""
