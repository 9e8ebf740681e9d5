"""The HTTP interfaces: our own, OpenAI's and AUTOMATIC1111's."""
