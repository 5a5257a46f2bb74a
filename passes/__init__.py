"""The passes that come with spa-compile, one a file; they are found through entry points like anybody's."""
