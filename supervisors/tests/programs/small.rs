//! The small supervisors.
