//! Skips an unreadable range of names: finds its end in a bounded number of tries.

/// The first bytes of a name as a number. Numbers have the same order as names.
type Place = u128;

/// A search for the end of an unreadable range: it moves in steps that double until a name can be
/// read again, then searches back by halves.
#[derive(Clone, Debug)]
pub struct Gap {
    /// A place that cannot be read.
    low: Place,
    /// A place that can be read, if one was found.
    high: Option<Place>,
    /// The next step, as an exponent of 2.
    step: u32,
}

impl Gap {
    /// Returns a gap that starts after this name.
    pub fn behind(name: &[u8]) -> Self {
        let mut bytes = [0; size_of::<Place>()];
        for (byte, of_name) in bytes.iter_mut().zip(name) {
            *byte = *of_name;
        }
        Self {
            low: Place::from_be_bytes(bytes),
            high: None,
            step: 0,
        }
    }

    fn next_place(&self) -> Option<Place> {
        match self.high {
            Some(high) => {
                let middle = self.low + (high - self.low) / 2;
                (middle > self.low).then_some(middle)
            }
            None => self.low.checked_add(1_u128.checked_shl(self.step)?),
        }
    }

    /// Returns the name to read from next. None if there is nothing more to try.
    pub fn next(&self) -> Option<[u8; size_of::<Place>()]> {
        self.next_place().map(Place::to_be_bytes)
    }

    /// Notes whether the name that [`Gap::next`] returned was readable.
    pub fn tell(&mut self, is_readable: bool) {
        let Some(place) = self.next_place() else {
            return;
        };
        if is_readable {
            self.high = Some(place);
        } else {
            // During the search by halves the step is no longer used.
            self.low = place;
            self.step += 1;
        }
    }

    /// Returns the first name from which reads succeed again, if one was found.
    pub fn end(&self) -> Option<[u8; size_of::<Place>()]> {
        self.high.map(Place::to_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the end that the search finds for a gap up to `end`, and the number of tries.
    fn search(from: &[u8], end: Option<&[u8]>) -> (Option<[u8; 16]>, u32) {
        let mut gap = Gap::behind(from);
        let mut tries = 0;
        while let Some(next) = gap.next() {
            tries += 1;
            gap.tell(end.is_some_and(|end| next.as_slice() >= end));
        }
        (gap.end(), tries)
    }

    #[test]
    fn unreadable_range_ends_at_next_readable_key() {
        let cases: [(&[u8], &[u8]); 5] = [
            (b"", b"a"),
            (b"ann", b"bob"),
            (b"r-abcdefgh", b"r-abcdefgi"),
            (&[0; 16], &[255; 16]),
            (b"longer than it is looked at", b"m"),
        ];
        for (from, end) in cases {
            let (found, tries) = search(from, Some(end));
            let mut expected = [0; 16];
            expected[..end.len()].copy_from_slice(end);
            assert_eq!(found, Some(expected), "{from:?}");
            assert!(tries <= 256, "{tries}");
        }
        for from in [&b""[..], b"ann", &[255; 16]] {
            let (found, tries) = search(from, None);
            assert_eq!(found, None);
            assert!(tries <= 128, "{tries}");
        }
    }
}
