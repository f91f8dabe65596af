//! Passes over what cannot be read in a range of names: finds, in a bounded number of tries, where it ends.

/// A name's first bytes, as a number: names are in its order.
type Place = u128;

/// Looks for the end of a gap in a range of names: in steps that double until something can be read again, and back by halves.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Here nothing can be read.
    low: Place,
    /// Here something can.
    high: Option<Place>,
    /// The next step, as a power of two.
    step: u32,
}

impl Gap {
    /// A gap that begins behind this name.
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

    /// From which name on to read next. None when there is no more to try.
    pub fn next(&self) -> Option<[u8; size_of::<Place>()]> {
        self.next_place().map(Place::to_be_bytes)
    }

    /// What came of that.
    pub fn tell(&mut self, is_readable: bool) {
        let Some(place) = self.next_place() else {
            return;
        };
        if is_readable {
            self.high = Some(place);
        } else {
            // Where it is gone back by halves, the steps count no more.
            self.low = place;
            self.step += 1;
        }
    }

    /// The first name from which on something can be read, if any was found.
    pub fn end(&self) -> Option<[u8; size_of::<Place>()]> {
        self.high.map(Place::to_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end that is found of a gap up to `end`, and in how many tries.
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
    fn gap_ends_where_something_can_be_read_again() {
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
