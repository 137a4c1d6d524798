"""One file per upstream kind: a payload builder and a response reader."""
