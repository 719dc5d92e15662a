//! Randomness from the kernel.

use crate::error::{Result, system};

/// A new secret: 128 bits from the kernel.
pub fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    let read =
        std::fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut bytes));
    read.map_err(|e| system("/dev/urandom", e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
