//! The fuzz targets as programs. `targets.rs` has the targets; each program in `bin` is the target of its own name.
//! `docs/fuzzing.md` tells how they are run.

pub mod targets;

pub use libfuzzer_sys::fuzz_target;

/// Makes a program of the target whose name the program has.
#[macro_export]
macro_rules! program {
    () => {
        /// Counts the memory of a run.
        #[global_allocator]
        static COUNTING: $crate::targets::memory::Counting = $crate::targets::memory::Counting;

        /// The target; a constant, so that no other target is in this program.
        const TARGET: $crate::targets::Target = $crate::targets::named(env!("CARGO_BIN_NAME"));

        $crate::fuzz_target!(|input: &[u8]| TARGET.run(input));
    };
}
