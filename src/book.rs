//! Longer texts: how to embed a tree, what the policies are for, how to operate it, how it compares.

#[doc = include_str!("../docs/embedding.md")]
pub mod embedding {}

#[doc = include_str!("../docs/policies.md")]
pub mod policies {}

#[doc = include_str!("../docs/operating.md")]
pub mod operating {}

#[doc = include_str!("../docs/agent.md")]
pub mod agent {}

#[doc = include_str!("../docs/comparison.md")]
pub mod comparison {}
