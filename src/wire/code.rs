//! The registration code that a realm may require (ACC-6): 80 bits, displayed as 16 letters and
//! digits.

use core::{fmt, str::FromStr};

use super::Malformed;

/// A registration code. `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RegistrationCode(pub [u8; 10]);

impl fmt::Display for RegistrationCode {
    /// Writes 16 lower-case characters of base 32.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = data_encoding::BASE32_NOPAD.encode(&self.0);
        f.write_str(&text.to_ascii_lowercase())
    }
}

impl fmt::Debug for RegistrationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationCode(…)")
    }
}

impl FromStr for RegistrationCode {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        data_encoding::BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(Malformed {
                what: "registration code: it is 16 letters and digits, as in the realm's registration-code file",
            })
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn registration_code_parses_as_shown_and_is_never_logged() {
        let code = RegistrationCode([7; 10]);
        assert_eq!(code.to_string().len(), 16);
        assert_eq!(code.to_string().parse(), Ok(code));
        assert_eq!(format!("{code:?}"), "RegistrationCode(…)");
        assert!("short".parse::<RegistrationCode>().is_err());
    }
}
