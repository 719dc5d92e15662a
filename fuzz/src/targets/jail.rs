//! What the helper of a jail reads, and what it says.

pub(super) use pepita_jail::fuzzing::{answer, plan};
