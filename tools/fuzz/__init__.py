"""Random cases for the command `spa-compile`: ordinary graphs as exporters write them, hostile files, random options.

`python -m tools.fuzz --help` says how to run them. In the order of a case:

    draft, images, tokens, waves, vectors, classic     graphs, block by block, with symbolic sizes
    dress                                              the same quantised, with other names, with weights elsewhere
    hostile, damage                                    files that ask for too much, or are broken
    arguments                                          random options of the command line
    cases                                              a case is made from its kind and seed, and from nothing else
    server, child                                      the command in a process that has imported it once
    child_call                                         a function in a process of its own
    oracle                                             what a written file has to compute, made from the dense file
    judge                                              whether a run kept its promises, and of what kind a fault is
    minimise, table                                    small reproductions; the counts as Markdown and JSON
"""
