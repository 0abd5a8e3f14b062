//! The content hash: a canonical manifest of named inputs, one per recipe of the line, chained.
