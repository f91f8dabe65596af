//! Sealing of packets: ChaCha20-Poly1305 (RFC 8439). The nonce is four zero bytes and the full
//! packet number, the associated data is the clear header (HS-9).

use alloc::vec::Vec;

use zeroize::Zeroizing;

/// The bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// A packet that the peer did not seal under this number and header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet is not authentic")]
pub struct OpenFailed;

/// The key of one direction of a link. It is small: a server holds two per link, and setting up the
/// cipher from it costs almost nothing.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// Returns the key with these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes.
    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals the bytes of `packet` behind its first `header_len` bytes, and appends the tag. The
    /// caller never uses a number twice (LINK-1).
    pub fn seal(&self, number: u64, header_len: usize, packet: &mut Vec<u8>) {
        #[cfg(all(test, feature = "std"))]
        super::audit::note(&self.0, number);
        let split = header_len.min(packet.len());
        let (header, body) = packet.split_at_mut(split);
        let tag = backend::seal(&self.0, nonce(number), header, body);
        packet.extend_from_slice(&tag);
    }

    /// Opens `sealed` (body and tag) in place and returns the body.
    pub fn open<'a>(
        &self,
        number: u64,
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], OpenFailed> {
        backend::open(&self.0, nonce(number), header, sealed)
    }
}

impl core::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// The two keys of a link.
#[derive(Clone, Debug)]
pub struct SessionKeys {
    /// The key for packets that this side sends.
    pub seal: SealKey,
    /// The key for packets that the other side sends.
    pub open: SealKey,
}

fn nonce(number: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[cfg(feature = "server")]
mod backend {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{OpenFailed, TAG_LEN};

    fn key(bytes: &[u8; 32]) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, bytes)
            .ok()
            .map(LessSafeKey::new)
    }

    pub fn seal(
        bytes: &[u8; 32],
        nonce: [u8; 12],
        header: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key(bytes).and_then(|key| {
            key.seal_in_place_separate_tag(nonce, Aad::from(header), body)
                .ok()
        });
        match tag.and_then(|tag| tag.as_ref().try_into().ok()) {
            Some(tag) => tag,
            // Only a packet of more than 256 GiB gets here. It must not be sent in clear.
            None => {
                body.fill(0);
                [0; TAG_LEN]
            }
        }
    }

    pub fn open<'a>(
        bytes: &[u8; 32],
        nonce: [u8; 12],
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], OpenFailed> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let key = key(bytes).ok_or(OpenFailed)?;
        key.open_in_place(nonce, Aad::from(header), sealed)
            .map(|body| &*body)
            .map_err(|_| OpenFailed)
    }
}

#[cfg(any(not(feature = "server"), test))]
#[cfg_attr(feature = "server", allow(dead_code))]
mod portable {
    use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305, KeyInit};

    use super::{OpenFailed, TAG_LEN};

    pub fn seal(
        bytes: &[u8; 32],
        nonce: [u8; 12],
        header: &[u8],
        body: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let cipher = ChaCha20Poly1305::new(bytes.into());
        match cipher.encrypt_in_place_detached(&nonce.into(), header, body) {
            Ok(tag) => tag.into(),
            // Only a packet of more than 256 GiB gets here. It must not be sent in clear.
            Err(_) => {
                body.fill(0);
                [0; TAG_LEN]
            }
        }
    }

    pub fn open<'a>(
        bytes: &[u8; 32],
        nonce: [u8; 12],
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], OpenFailed> {
        let (body, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenFailed)?;
        let cipher = ChaCha20Poly1305::new(bytes.into());
        cipher
            .decrypt_in_place_detached(&nonce.into(), header, body, (&*tag).into())
            .map_err(|_| OpenFailed)?;
        Ok(body)
    }
}

#[cfg(not(feature = "server"))]
use portable as backend;

#[cfg(test)]
mod tests {
    use super::*;

    /// A key's bytes are wiped from memory when it is freed.
    #[test]
    fn seal_key_is_wiped_when_dropped() {
        const fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        is_wiped(&SealKey::new([1; 32]).0);
    }

    #[test]
    fn seal_opens_only_with_same_number_header_and_bytes() {
        let key = SealKey::new([5; 32]);
        let mut packet = b"headbody".to_vec();
        key.seal(7, 4, &mut packet);
        assert_eq!(packet.len(), 8 + TAG_LEN);
        let (header, sealed) = packet.split_at(4);
        assert_eq!(key.open(7, header, &mut sealed.to_vec()), Ok(&b"body"[..]));
        assert_eq!(key.open(8, header, &mut sealed.to_vec()), Err(OpenFailed));
        assert_eq!(key.open(7, b"xead", &mut sealed.to_vec()), Err(OpenFailed));
        assert_eq!(key.open(7, header, &mut []), Err(OpenFailed));
        let mut bent = sealed.to_vec();
        bent[0] ^= 1;
        assert_eq!(key.open(7, header, &mut bent), Err(OpenFailed));
    }

    /// HS-9: both implementations of the cipher seal the same bytes: the one of a device that
    /// serves nobody, and the one of a realm.
    #[cfg(feature = "server")]
    #[test]
    fn seal_backends_give_same_bytes() {
        let (mut a, mut b) = (*b"some body", *b"some body");
        let tags = (
            backend::seal(&[3; 32], nonce(9), b"h", &mut a),
            portable::seal(&[3; 32], nonce(9), b"h", &mut b),
        );
        assert_eq!((tags.0, a), (tags.1, b));
        let mut sealed = [&b[..], &tags.1].concat();
        assert_eq!(
            portable::open(&[3; 32], nonce(9), b"h", &mut sealed),
            Ok(&b"some body"[..])
        );
    }
}
