//! p2pinst: the command line.
