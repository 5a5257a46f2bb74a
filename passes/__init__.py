"""The passes that come with spa-compile: one a file, found through entry points like those of any other distribution."""
