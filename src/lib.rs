#![doc = include_str!("../README.md")]
//!
//! # The crate
//!
//! Begin at [`tree`]; [`config`] reads a specification from a TOML file; [`adapter`] runs single daemons. [`book`] has the
//! longer texts: embedding, policies, operating, writing an agent, comparison.

mod actor;
pub mod adapter;
pub mod book;
pub mod cid;
pub mod config;
pub mod control;
pub mod executor;
pub mod group;
pub mod journal;
pub mod link;
pub mod monitor_client;
pub mod observe;
pub mod platform;
pub mod policy;
pub mod reply;
pub mod spec;
pub mod store;
pub mod tree;
pub mod vm;
