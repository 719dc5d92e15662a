//! The group's decisions, clause by clause of docs/semantics.md, and against a model of it under random steps.

mod adoption;
mod budgets;
mod commands;
mod escalation;
mod group_restarts;
mod judgement;
mod machine;
mod model;
mod reload;
mod starting;
mod steps;
mod stopping;
mod world;
