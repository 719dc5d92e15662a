//! Randomness from the kernel.

use crate::error::{Result, system};

/// Returns a new secret: 128 random bits, as 32 hexadecimal digits.
///
/// # Errors
/// When the kernel provides no randomness.
pub fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| system("random numbers", e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
