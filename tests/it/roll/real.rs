//! A roll on real machines.
