//! The consequences of failures: the clauses of docs/semantics.md, by number, under a clock that the test controls. All
//! parts are real except the host: the launcher, the monitors and the guests are simulated in memory.

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod basics;
mod changing;
mod cids;
mod claims;
mod edge_budgets;
mod edge_cases;
mod edge_races;
mod escalating;
mod extremes;
mod failing;
mod health;
mod order;
mod scale;
mod simulation;
mod stopping;
