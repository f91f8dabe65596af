//! An operator's commands about other realms.

use super::{
    CallError, Client,
    commands::{UNNUMBERED, done, unexpected},
};
use crate::{
    crypto::PublicKey,
    wire::{
        Answer, Command, FORM_DETAILS, FORM_DROP, FORM_MOVE, FORM_PENDING, Options, Peer,
        PeerDetail, Port, RealmId, Text, command,
    },
};

impl Client {
    /// Ends a peering. Messages queued for the peer are returned to their senders.
    pub async fn removerealm(&self, realm: RealmId) -> Result<(), CallError> {
        self.remove(realm, Options::NONE).await
    }

    /// Like [`Client::removerealm`], but messages queued for the peer are dropped and their senders
    /// are not told.
    pub async fn droprealm(&self, realm: RealmId) -> Result<(), CallError> {
        let options = Options {
            form: Some(FORM_DROP),
            ..Options::NONE
        };
        self.remove(realm, options).await
    }

    async fn remove(&self, realm: RealmId, options: Options) -> Result<(), CallError> {
        let command = Command::RemoveRealm(command::RemoveRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            realm,
        });
        done(&self.call(options, command).await?)
    }

    /// Accepts a realm that has introduced itself and waits for a decision: the one with this key,
    /// under this name.
    pub async fn acceptrealm(&self, realm: RealmId, key: PublicKey) -> Result<(), CallError> {
        let options = Options {
            key: Some(key.0),
            ..Options::NONE
        };
        self.about_address(realm, ("", 0), options).await
    }

    /// Refuses a realm that has introduced itself, by the name that it calls itself.
    pub async fn refuserealm(&self, realm: RealmId, key: PublicKey) -> Result<(), CallError> {
        let options = Options {
            key: Some(key.0),
            ..Options::NONE
        };
        self.remove(realm, options).await
    }

    /// Changes the address of a peer.
    pub async fn moverealm(&self, realm: RealmId, address: (&str, u16)) -> Result<(), CallError> {
        let options = Options {
            form: Some(FORM_MOVE),
            ..Options::NONE
        };
        self.about_address(realm, address, options).await
    }

    async fn about_address(
        &self,
        realm: RealmId,
        (address, port): (&str, u16),
        options: Options,
    ) -> Result<(), CallError> {
        let command = Command::AddRealm(command::AddRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            realm,
            address: Text(address),
            port: Port(port),
            src_address: Text(""),
            src_port: Port(0),
        });
        done(&self.call(options, command).await?)
    }

    /// Returns the realm's peers.
    pub async fn realms(&self) -> Result<Vec<Peer>, CallError> {
        let command = Command::Realms(command::Realms {
            session: self.session()?,
        });
        match self.call(Options::NONE, command).await? {
            Answer::Realms(peers) => Ok(peers),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the realm's peers with all details for an operator.
    pub async fn realm_details(&self) -> Result<Vec<PeerDetail>, CallError> {
        self.details(FORM_DETAILS).await
    }

    /// Returns the realms that have introduced themselves and wait for a decision.
    pub async fn pending_realms(&self) -> Result<Vec<PeerDetail>, CallError> {
        self.details(FORM_PENDING).await
    }

    async fn details(&self, form: u8) -> Result<Vec<PeerDetail>, CallError> {
        let command = Command::Realms(command::Realms {
            session: self.session()?,
        });
        let options = Options {
            form: Some(form),
            ..Options::NONE
        };
        match self.call(options, command).await? {
            Answer::Details(details) => {
                let read = details.read();
                read.map_err(|_| CallError::Misunderstood {
                    what: "details of realms".into(),
                    may_be_done: false,
                })
            }
            other => Err(unexpected(&other)),
        }
    }
}
