//! The link entry: the link, the other side, and the state of their handshake.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    super::{
        accounts::Accounts,
        dial::Dial,
        dormant::MayHibernate,
        event::IncomingRequest,
        holder::{Holder, Holding},
        identity::KeyIndex,
        ids::LinkId,
        path::Path,
        ticket::{IssuedTicket, LinkResumption, Resumed, TicketState},
    },
    life::LinkLife,
    replacement::Rekey,
    stage::{Accepting, Role, Stage},
};
use crate::{
    crypto::{PublicKey, SessionKeys, same},
    link::{Link, Time},
    wire::{ConnectionId, LinkName, OperationNumber, ResetToken, Welcome},
};

/// What an endpoint holds of a link. Its fields change by methods that say what has happened, which
/// change all that belongs together. The table finds links by the fields that it sees, so those
/// change only together with its indexes.
#[derive(Debug)]
pub(in crate::endpoint) struct LinkEntry {
    /// The link, awake or dormant.
    pub link: MayHibernate,
    pub(super) role: Role,
    /// The path to the other side. Only a link that the other side opened has a local address: that
    /// of its newest packet.
    pub(super) path: Path,
    /// The other side's key; `None` on a plain link.
    pub(super) peer: Option<PublicKey>,
    /// True if this side opened it to a realm, which may send requests on it too.
    pub(super) is_shared: bool,
    /// The other side's connection id of the link.
    pub(super) remote: Option<ConnectionId>,
    /// The token that a Reset of the other side must carry.
    reset_token: Option<ResetToken>,
    stage: Stage,
    /// This side's key that the link is with; a realm has a few.
    own: KeyIndex,
    /// True if its Init is sent `DIALS_ONCE` times at most, because the address is unverified.
    is_trial: bool,
    opened: Time,
    rekey: Rekey,
    /// While the new path is not validated: the former path, and until when the link may return to
    /// it.
    previous_path: Option<Box<(Path, Time)>>,
    /// Early requests that wait until the link is proven.
    held: Vec<IncomingRequest>,
    /// Its slot, and the memory held for the other side.
    holding: Holding,
    /// On a responder's link: when the Accept left.
    accepted: Option<Time>,
    heard: Option<Time>,
    life: LinkLife,
    resumption: LinkResumption,
}

/// Memory of an idle link, in bytes: the link itself and its table entries.
pub const LINK_BYTES: usize = size_of::<(LinkId, LinkEntry)>()
    + size_of::<Link>()
    + 2 * size_of::<(SocketAddr, LinkId)>()
    + 2 * size_of::<(PublicKey, LinkId)>()
    + 2 * size_of::<(Time, LinkId)>()
    + Accounts::LINK_BYTES;

/// Additional memory of a link during its handshake, in bytes.
pub const HANDSHAKE_BYTES: usize = size_of::<Accepting>();

impl LinkEntry {
    pub fn new(
        now: Time,
        link: Link,
        role: Role,
        path: Path,
        peer: Option<PublicKey>,
        stage: Stage,
    ) -> Self {
        Self {
            link: link.into(),
            role,
            path,
            peer,
            is_shared: false,
            remote: None,
            reset_token: None,
            stage,
            own: KeyIndex::CURRENT,
            is_trial: false,
            opened: now,
            rekey: Rekey::default(),
            previous_path: None,
            held: Vec::new(),
            holding: Holding::default(),
            accepted: None,
            heard: None,
            life: LinkLife::default(),
            resumption: LinkResumption::default(),
        }
    }

    /// Makes it a link with this side's key `own`.
    pub const fn with_key(mut self, own: KeyIndex) -> Self {
        self.own = own;
        self
    }

    /// Makes it a link that is to replace `old`.
    pub fn replacing(mut self, old: LinkId) -> Self {
        self.rekey = Rekey::of_replacement(old);
        self
    }

    /// Makes it a link that the other side resumes.
    pub fn resumed_by(mut self, resumed: Resumed) -> Self {
        self.resumption = LinkResumption::accepted(resumed);
        self
    }

    /// Returns the entry of a link that opens again, because the other side has forgotten it;
    /// `name` is its name if it is shared.
    pub(super) fn restart(self, now: Time, name: Option<LinkName>) -> Self {
        let link = self.link.into_awake().restart(name);
        let asks_in_secret = link.asks_in_secret();
        let mut entry = Self {
            link: link.into(),
            opened: now,
            ..self
        };
        if asks_in_secret {
            // HS-7: a request with a password is sent again, but not on a link without forward
            // secrecy.
            entry.resumption.clear();
        }
        if entry.is_shared {
            entry.reset_token = None;
        }
        if entry.peer.is_some() {
            entry.stage = Stage::Calling;
        }
        entry
    }

    /// Makes it a link to a realm, which may send requests on it too.
    pub const fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Gives it the connection id that the initiator of a plain link has chosen.
    pub const fn named(mut self, connection: ConnectionId) -> Self {
        self.remote = Some(connection);
        self
    }

    pub const fn role(&self) -> Role {
        self.role
    }

    /// Returns the path to the other side.
    pub const fn path(&self) -> Path {
        self.path
    }

    /// Returns the other side's key; `None` on a plain link.
    pub const fn peer(&self) -> Option<PublicKey> {
        self.peer
    }

    /// True if this side opened it to a realm.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns the other side's connection id of the link.
    pub const fn remote(&self) -> Option<ConnectionId> {
        self.remote
    }

    /// The state of the handshake.
    pub const fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Returns the handshake that this side has dialed and that is not answered yet.
    pub fn dial_mut(&mut self) -> Option<&mut Dial> {
        match &mut self.stage {
            Stage::Dialing(dial) => Some(dial),
            Stage::Calling | Stage::Accepting(_) | Stage::Open => None,
        }
    }

    /// This side's key that the link is with.
    pub const fn own(&self) -> KeyIndex {
        self.own
    }

    /// When the link was opened, or opened again.
    pub const fn opened(&self) -> Time {
        self.opened
    }

    /// When a packet last arrived.
    pub const fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// When the Accept left, on a responder's link.
    pub const fn accepted(&self) -> Option<Time> {
        self.accepted
    }

    /// True while its address is only tried (`DIALS_ONCE`).
    pub const fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// Sets whether its address is only tried.
    pub const fn set_trial(&mut self, is_trial: bool) {
        self.is_trial = is_trial;
    }

    /// The state of its replacement.
    pub const fn rekey(&self) -> &Rekey {
        &self.rekey
    }

    /// The state of its replacement, to change it.
    pub const fn rekey_mut(&mut self) -> &mut Rekey {
        &mut self.rekey
    }

    /// Its slot, and the memory held for the other side.
    pub const fn holding(&self) -> &Holding {
        &self.holding
    }

    /// Its slot, and the memory held for the other side, to change them.
    pub const fn holding_mut(&mut self) -> &mut Holding {
        &mut self.holding
    }

    /// Its part in resumptions.
    pub const fn resumption(&self) -> &LinkResumption {
        &self.resumption
    }

    /// Its part in resumptions, to change it.
    pub const fn resumption_mut(&mut self) -> &mut LinkResumption {
        &mut self.resumption
    }

    /// The life of the store that it claims or tells.
    pub const fn life(&self) -> &LinkLife {
        &self.life
    }

    /// The life of the store that it claims or tells, to change it.
    pub const fn life_mut(&mut self) -> &mut LinkLife {
        &mut self.life
    }

    /// Returns the connection id that names the link on this side: a plain link's is the one that
    /// its initiator chose.
    pub fn connection(&self, id: LinkId) -> ConnectionId {
        match (self.peer, self.remote) {
            (None, Some(connection)) => connection,
            (Some(_), _) => ConnectionId(id.0),
            (None, None) => {
                debug_assert!(false, "a plain link has no connection id");
                ConnectionId(id.0)
            }
        }
    }

    /// Sets the connection id of a link that this side opened. The table does not find such links
    /// by it.
    pub fn set_remote(&mut self, remote: ConnectionId) {
        debug_assert!(
            self.role == Role::Initiator,
            "the table has to know the id of a link that another side opened"
        );
        self.remote = Some(remote);
    }

    /// Sets the local address of its path.
    pub const fn set_local_address(&mut self, local: Option<IpAddr>) {
        self.path.local = local;
    }

    /// Returns the holder of the link's memory.
    pub fn holder(&self) -> Holder {
        self.holding.holder()
    }

    /// Returns when a packet last arrived, or else when the link was opened.
    pub fn heard_or_opened(&self) -> Time {
        self.heard.unwrap_or(self.opened)
    }

    /// Holds an early request until the link is proven.
    pub fn hold(&mut self, request: IncomingRequest) {
        self.held.push(request);
    }

    /// True if requests wait until the link is proven.
    pub const fn holds_requests(&self) -> bool {
        !self.held.is_empty()
    }

    /// Removes and returns the requests that wait until the link is proven.
    pub fn take_held(&mut self) -> Vec<IncomingRequest> {
        core::mem::take(&mut self.held)
    }

    /// Records that a packet has arrived.
    pub const fn on_packet(&mut self, now: Time) {
        self.heard = Some(now);
    }

    /// Sets the token that a Reset of the other side must carry.
    pub const fn set_reset_token(&mut self, token: ResetToken) {
        self.reset_token = Some(token);
    }

    /// Sends the first packet of this side's handshake from now on.
    pub fn begin_dial(&mut self, dial: Dial) {
        self.stage = Stage::Dialing(Box::new(dial));
    }

    /// Writes the first packet of this side's handshake into `out` if it is due. Returns the wait
    /// for its answer, if it is written.
    pub fn transmit_dial(&mut self, now: Time, out: &mut Vec<u8>) -> Option<Duration> {
        let Stage::Dialing(dial) = &mut self.stage else {
            return None;
        };
        dial.transmit(now, &mut self.link, self.is_trial, out)
    }

    /// Records what the answer to the first packet shows of the path.
    pub fn record_dial_answer(&mut self, now: Time) {
        if let Stage::Dialing(dial) = &self.stage {
            dial.record_answer(now, &mut self.link);
        }
    }

    /// Completes this side's handshake, which the other side has accepted with `connection` as its
    /// connection id.
    pub fn on_accepted(&mut self, now: Time, connection: ConnectionId, keys: SessionKeys) {
        self.stage = Stage::Open;
        self.heard = Some(now);
        self.set_remote(connection);
        self.link.establish(keys, Some(connection));
        self.link.early_arrived(now);
    }

    /// Completes this side's resumption, in the same way. The other side receives datagrams of at
    /// most `peer_max_datagram` bytes.
    pub fn on_resumed(
        &mut self,
        now: Time,
        connection: ConnectionId,
        keys: SessionKeys,
        peer_max_datagram: usize,
    ) {
        self.resumption.on_ticket_used();
        // The first UPDATE carries the new token.
        self.reset_token = None;
        self.on_accepted(now, connection, keys);
        self.link
            .opening_mut()
            .resumption_accepted(peer_max_datagram);
    }

    /// Records what the other side tells in its WELCOME. Later handshakes of the link claim the
    /// life.
    pub const fn on_welcomed(&mut self, welcome: &Welcome) {
        self.reset_token = Some(welcome.token);
        self.life.learn(welcome);
    }

    /// Records that this side accepts the other one, whose key has used operation numbers up to
    /// `highest`.
    pub const fn on_admitted(&mut self, highest: OperationNumber) {
        if let Stage::Accepting(accepting) = &mut self.stage {
            accepting.welcomed = Some(highest);
        }
    }

    /// Takes the handshake of the other side out of the entry, to answer it: the link is open.
    pub fn take_accepting(&mut self) -> Option<Box<Accepting>> {
        match core::mem::replace(&mut self.stage, Stage::Open) {
            Stage::Accepting(accepting) => Some(accepting),
            other @ (Stage::Calling | Stage::Dialing(_) | Stage::Open) => {
                self.stage = other;
                None
            }
        }
    }

    /// Opens the link with the keys of the handshake whose answer leaves now.
    pub fn on_accept_sent(&mut self, now: Time, keys: SessionKeys) {
        self.link.establish(keys, None);
        self.accepted = Some(now);
    }

    /// Records a Reset of the link, whose token is used up.
    pub const fn on_reset(&mut self, now: Time) {
        self.heard = Some(now);
        self.reset_token = None;
    }

    /// Records a Reset of the predecessor of a link that this side dials: the first packet is sent
    /// again at once, one time.
    pub fn on_predecessor_reset(&mut self) {
        if let Stage::Dialing(dial) = &mut self.stage {
            self.reset_token = None;
            dial.hurry();
        }
    }

    /// While the path is not validated: the former path.
    pub fn previous_path(&self) -> Option<Path> {
        self.previous_path.as_deref().map(|(path, _)| *path)
    }

    /// While the path is not validated: until when the link may return to the former path.
    pub fn previous_path_until(&self) -> Option<Time> {
        self.previous_path.as_deref().map(|(_, until)| *until)
    }

    /// Records a move to an address from which `bytes` bytes came, and which only the return of
    /// `challenge` proves. Without it, the link returns at `until` to the last proven path: that
    /// before an earlier move, or else `proven`.
    pub fn on_moved(
        &mut self,
        until: Time,
        proven: Option<Path>,
        bytes: usize,
        challenge: [u8; 8],
    ) {
        let previous = self.previous_path().or(proven);
        self.previous_path = previous.map(|path| Box::new((path, until)));
        self.link.path_moved(bytes, challenge);
    }

    /// Records that the other side is back at its former address.
    pub fn on_moved_back(&mut self) {
        self.previous_path = None;
        self.link.path_proven();
    }

    /// Ends a migration if the new address is validated, or if its time is over. Returns the path
    /// to return to in the latter case.
    pub fn end_migration(&mut self, now: Time) -> Option<Path> {
        let (path, until) = self.previous_path.as_deref().copied()?;
        if !self.link.has_moved() {
            self.previous_path = None;
            return None;
        }
        (until <= now).then(|| {
            self.on_moved_back();
            path
        })
    }

    /// Returns the memory of the requests that wait until the link is proven, in bytes.
    pub fn held_bytes(&self) -> usize {
        let each = self.held.iter().map(|request| request.bytes.capacity());
        self.held.capacity() * size_of::<IncomingRequest>() + each.sum::<usize>()
    }

    /// True if the other side has never shown that it receives packets sent to it.
    pub fn is_unproven(&self) -> bool {
        // A sealed packet shows that its sender received the Accept. A plain packet shows nothing.
        !self.link.is_proven() && (self.peer.is_none() || self.heard.is_none())
    }

    /// Returns the address that the other side last proved; `None` if it proved none.
    pub fn proven_address(&self) -> Option<SocketAddr> {
        if self.link.is_proven() {
            return Some(self.path.remote);
        }
        self.previous_path().map(|path| path.remote)
    }

    /// True if requests wait until the other side's address is proven, except `early` ones where
    /// those need not. The holder of a link's keys may send packets from any address, and the cost
    /// of a command is counted by address.
    pub fn waits_for_proof(&self, early: bool) -> bool {
        let is_sealed = self.role == Role::Responder && self.peer.is_some();
        is_sealed && !early && self.proven_address().is_none()
    }

    /// True if it leads from that key of this side to that address, and is not closing.
    pub fn is_to(&self, own: KeyIndex, address: SocketAddr) -> bool {
        self.own == own && self.path.remote == address && !self.link.is_closing()
    }

    /// True while this side waits for the other to accept the link.
    pub fn is_dialing(&self) -> bool {
        self.role == Role::Initiator && !matches!(self.stage, Stage::Open)
    }

    /// True if the Init to an unverified address has left as often as it may.
    pub fn is_dialed_out(&self) -> bool {
        let dial = self.stage.dial().filter(|_| self.is_trial);
        dial.is_some_and(Dial::has_tried_often)
    }

    /// True if the Accept can leave: the realm has given its WELCOME, and the answers to early data
    /// are ready or have timed out.
    pub fn accept_is_due(&self, now: Time) -> bool {
        let Stage::Accepting(accepting) = &self.stage else {
            return false;
        };
        // Requests held until the link is proven are not answered in the Accept.
        let is_awaited = self.link.working() > self.held.len();
        accepting.welcomed.is_some() && (!is_awaited || accepting.due <= now)
    }

    /// True if a link in use is due for replacement. An unused link is not replaced.
    pub fn wants_rekey(&self, now: Time, lifetime: Duration) -> bool {
        let is_ours = self.role == Role::Initiator && self.peer.is_some();
        let is_old = now - self.opened >= lifetime || self.link.needs_rekey();
        is_ours
            && is_old
            && self.rekey.may_begin(now)
            && matches!(self.stage, Stage::Open)
            && !self.link.is_closing()
    }

    /// True if the link was resumed or is about to be.
    pub fn is_resumed(&self) -> bool {
        match &self.stage {
            Stage::Calling => self.resumption.ticket().is_some(),
            Stage::Dialing(dial) => dial.resumption().is_some(),
            Stage::Accepting(_) | Stage::Open => {
                self.resumption.resumed().is_some()
                    || self.resumption.ticket_state() == TicketState::Used
            }
        }
    }

    /// Returns the link's ticket, made with this side's key `own`. With `is_address_final`
    /// no later event can show that its device had the answer at another address.
    pub fn issued_ticket(&self, own: PublicKey, is_address_final: bool) -> Option<IssuedTicket> {
        // A device that used a former key uses the current one next time.
        if !self.resumption.makes_ticket() || self.own != KeyIndex::CURRENT {
            return None;
        }
        let (secret, max_datagram) = self.link.responders_ticket()?;
        Some(IssuedTicket {
            peer: self.peer?,
            own,
            secret,
            max_datagram,
            account: self.holding.account(),
            address: (is_address_final && !self.link.has_moved()).then(|| self.path.remote.ip()),
        })
    }

    /// The token that a Reset of the other side must carry.
    pub const fn reset_token(&self) -> Option<&ResetToken> {
        self.reset_token.as_ref()
    }

    /// True if a Reset of the link is accepted as the other side's. An initiator that has resumed
    /// gets the token only after it has proven its address. Until then a Reset that names its link
    /// is accepted once something has timed out.
    pub fn believes_reset(&self, token: &ResetToken) -> bool {
        match &self.reset_token {
            Some(known) => same(known, token),
            None => {
                let has_come_back =
                    self.role == Role::Initiator && self.resumption.ticket().is_some();
                has_come_back && self.link.timeouts() > 0
            }
        }
    }
}
