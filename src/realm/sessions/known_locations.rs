//! Devices and networks from which a user has logged in before (ACC-5): wrong guesses from
//! elsewhere do not make the user's own devices and networks wait.

use std::sync::Arc;

use crate::realm::{
    Caller,
    failure::Failure,
    limits::Guess,
    records::{self, KnownRecord, Owner, Record as _},
    sessions::SESSION_HASHES,
    storage::Storage,
};
use crate::{
    crypto::{MacKey, SecretKey},
    faults::{Fault, is_planted},
    store::{Batch, Key, Store},
    wire::Username,
};

/// The most devices, and the most networks, that are remembered of a user. Another replaces the one
/// not seen for longest.
const KNOWN_MAX: usize = 16;
/// More than there ever are.
const LISTED_MAX: usize = 2 * KNOWN_MAX;

const DEVICE: u8 = b'd';
const NETWORK: u8 = b'n';

/// The devices and networks from which users have logged in.
#[derive(Debug)]
pub struct KnownLocations<S> {
    storage: Arc<Storage<S>>,
    hashes: MacKey,
}

impl<S> KnownLocations<S> {
    /// Returns the service over the store. `lasting` is the secret that outlasts the realm's key.
    pub(in crate::realm) fn new(storage: Arc<Storage<S>>, lasting: &SecretKey) -> Self {
        Self {
            storage,
            hashes: MacKey::derive(lasting, SESSION_HASHES),
        }
    }
}

impl<S: Store> KnownLocations<S> {
    /// Returns the records of a caller's device and network. The network is stored as a keyed hash,
    /// so that the store does not reveal where users are.
    fn known_keys(&self, caller: &Caller, user: Username) -> [Option<(u8, [u8; 16], Key)>; 2] {
        let device = caller.device().map(|device| Owner::Device(device).short());
        let subnet = caller.subnet.as_bytes();
        let network = self.hashes.mac16(&[b"network", subnet]);
        let one = |kind: u8, what: [u8; 16]| (kind, what, records::known(user, kind, &what));
        [
            device.map(|device| one(DEVICE, device)),
            Some(one(NETWORK, network)),
        ]
    }

    /// Returns the counter for an attempt to log `user` in.
    pub(in crate::realm) async fn login_guess(
        &self,
        caller: &Caller,
        user: Username,
    ) -> Result<Guess, Failure> {
        for (_, what, key) in self.known_keys(caller, user).into_iter().flatten() {
            let is_known = self.storage.record::<KnownRecord>(&key).await?.is_some();
            if is_known && !is_planted(Fault::LockOwnerOut) {
                return Ok(Guess::LoginFrom(user, what));
            }
        }
        Ok(Guess::Login(user))
    }

    /// Adds to `batch` the device and network from which `user` has logged in.
    pub(super) async fn remember(
        &self,
        caller: &Caller,
        user: Username,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let last = caller.now.running;
        let value = KnownRecord { last }.to_value()?;
        for (kind, _, key) in self.known_keys(caller, user).into_iter().flatten() {
            self.forget_locations(user, kind, &key, batch).await?;
            batch.put(key, value.clone());
        }
        Ok(())
    }

    /// Adds to `batch` the removal of those not seen for longest, to make room for `new`.
    async fn forget_locations(
        &self,
        user: Username,
        kind: u8,
        new: &Key,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let prefix = records::known_of_kind(user, kind);
        let found = self.storage.list(&prefix, None, LISTED_MAX).await?;
        let mut known = Vec::with_capacity(found.len());
        for (key, found) in found {
            let KnownRecord { last } = KnownRecord::from_value(&found.value)?;
            if key != *new {
                known.push((last, key));
            }
        }
        known.sort();
        let surplus = (known.len() + 1).saturating_sub(KNOWN_MAX);
        for (_, key) in known.into_iter().take(surplus) {
            batch.delete(key);
        }
        Ok(())
    }
}
