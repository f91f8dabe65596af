//! Realms that move. After a restart, each serves from another address, which it tells the realms
//! that it knows. Its users learn the new address by its name.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};

use super::{
    REALM_PORT,
    node::{Node, host_and_port},
    world::World,
};

/// The longest wait for a look at the peers of a realm.
const LOOK: Duration = Duration::from_secs(1);

/// Moves realms, one after another. If two realms moved before either had told the other, they
/// could not find each other again.
pub(super) async fn move_about(world: &World, mut rng: StdRng) {
    let mut moved_last = None;
    for move_number in 1_u8..=u8::MAX {
        loop {
            let spell = world.plan.restless.mul_f64(1.0 + rng.random::<f64>() * 4.0);
            tokio::time::sleep(spell).await;
            // A realm that cannot be called could not be told where the others are.
            let shut_in = world.plan.kinds.nat.map(|nat| nat.realm);
            let which = shut_in.unwrap_or_else(|| rng.random_range(0..world.sites.len()));
            let (site, _) = &world.sites[which];
            let may_move =
                moved_last.is_none_or(|last| last == which) || knows_all(world, site).await;
            if may_move {
                moved_last = Some(which);
                move_site(world, which, move_number, &mut rng);
                break;
            }
        }
    }
}

fn move_site(world: &World, which: usize, net: u8, rng: &mut StdRng) {
    let (site, life) = &world.sites[which];
    let host = u8::try_from(which).unwrap() + 1;
    let port = REALM_PORT + rng.random_range(0..3);
    let address = SocketAddr::from(([10, 0, net, host], port));
    world.note(site.id.as_str(), || format!("moves to {address}"));
    *site.address.lock().unwrap() = address;
    if let Some(name) = site.name {
        world.network.set_name(name, &[address]);
    }
    life.kill();
}

/// True if a realm is up and knows the addresses of all others.
async fn knows_all(world: &World, site: &Node) -> bool {
    let realm = site.state.lock().unwrap().realm.as_ref().map(Arc::clone);
    let Some(realm) = realm else {
        return false;
    };
    // A dead process does not answer.
    let Ok((peers, are_all)) = tokio::time::timeout(LOOK, realm.peers.peers()).await else {
        return false;
    };
    let others = world.sites.iter().filter(|(other, _)| other.id != site.id);
    let is_known = |other: &Node| {
        let (host, port) = host_and_port(other.address());
        let mut peers = peers.iter();
        peers.any(|peer| peer.realm == other.id && peer.address() == (host.as_str(), port))
    };
    are_all && others.into_iter().all(|(other, _)| is_known(other))
}
