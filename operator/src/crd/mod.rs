//! The resources as users write them.
