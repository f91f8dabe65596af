//! Tests of the tests: each planted fault makes one of them fail.

use std::process::Command;

use super::campaign::{on_thread, run};
use crate::faults::{self, Fault};

/// Faults that the simulator finds, each with a seed that finds it.
const FOUND_BY_SEEDS: [(Fault, u64); 28] = [
    (Fault::AnswerBeforeCommit, 5),
    (Fault::ForgetAnswer, 5),
    (Fault::IgnoreConflict, 0),
    (Fault::IgnoreFullDisk, 16),
    (Fault::ReusePacketNumber, 0),
    (Fault::DropParts, 0),
    (Fault::NeverRepeat, 3),
    (Fault::KeepAddress, 0),
    (Fault::SkipEntry, 0),
    (Fault::TakeSilenceForDelivery, 21),
    (Fault::QueueOutOfOrder, 1),
    (Fault::GiveUpPeer, 0),
    (Fault::FinishUnderFreshNumber, 35),
    (Fault::NoSalt, 1),
    (Fault::KeepNothing, 57),
    (Fault::OutboxInNoOrder, 27),
    (Fault::OutboxOfNobody, 158),
    (Fault::CancelWithoutVoid, 31),
    (Fault::ConfirmUnshown, 594),
    (Fault::ReadMeansShown, 24),
    (Fault::UnreadWithoutCursors, 0),
    (Fault::DropUnread, 7),
    (Fault::StoreWithoutShare, 30),
    (Fault::BelieveCopies, 12),
    (Fault::BelieveAnyLink, 66),
    (Fault::BelieveClaims, 30),
    (Fault::KeepFormerPeering, 287),
    (Fault::IntroduceOldAddress, 0),
];

/// Faults that other tests find, each with such a test.
const FOUND_BY_TESTS: [(Fault, &str); 68] = [
    (
        Fault::DeliverBlocked,
        "realm::tests::blocks::mailboxes_follow_blocks_in_any_order",
    ),
    (
        Fault::ShowBlocked,
        "realm::tests::hidden::watch_pushes_no_group_entry_of_blocked_user",
    ),
    (
        Fault::BelieveForever,
        "federation::tests::claims::peer_silent_at_stored_address_is_tried_at_its_hostname",
    ),
    (
        Fault::AskUsedAtOnce,
        "federation::tests::delivery_refused_as_number_reused_is_retried_with_growing_waits",
    ),
    (
        Fault::LeaveRemains,
        "realm::tests::peer_removal::peer_removal_interrupted_at_any_step_is_completed",
    ),
    (
        Fault::OneEpoch,
        "realm::tests::queue::queue_numbers_messages_in_new_epoch_after_each_start",
    ),
    (
        Fault::WaitOnDeadLink,
        "endpoint::tests::realms::peer_link_forgotten_by_opener_moves_requests_to_next",
    ),
    (
        Fault::TellUnspecified,
        "realm::tests::peers::introduction_by_moved_realm_tells_new_address",
    ),
    (
        Fault::KeepStaleMembership,
        "realm::tests::copying::membership_unknown_to_home_realm_ends_with_next_post",
    ),
    (
        Fault::PassRefusalsOn,
        "federation::tests::refusals::delivery_refusal_about_session_or_number_is_not_passed_on",
    ),
    (
        Fault::ForgetFirstKey,
        "realm::tests::claims::uninvited_peer_returning_under_later_key_repeats_nothing",
    ),
    (
        Fault::TrustKnownKey,
        "realm::tests::claims::key_rotation_is_repeated_to_peer_that_calls_by_former_key",
    ),
    (
        Fault::TicketsWithoutEnd,
        "endpoint::tests::resume::ticket_is_valid_for_one_day_and_one_user",
    ),
    (
        Fault::AnswerUnderKnownNonce,
        "endpoint::tests::resume::resumption_replayed_is_answered_under_another_key",
    ),
    (
        Fault::AnyPlaceIsKnown,
        "endpoint::tests::resume::resumption_long_answer_goes_to_proven_address_only",
    ),
    (
        Fault::PushOutOthers,
        "endpoint::tests::repeats::resumption_repeated_often_evicts_no_links_of_others",
    ),
    (
        Fault::ForgetPath,
        "endpoint::tests::memory::path_memory_is_used_by_next_process",
    ),
    (
        Fault::TakeCopyForOriginal,
        "simulation::owners::outbox_of_copied_profile_sends_nothing_twice",
    ),
    (
        Fault::BelieveAnyCall,
        "federation::tests::peer_links::dial_back_peer_behind_firewall_is_reached_within_hour",
    ),
    (
        Fault::LetLinksIdleOut,
        "server::tests::seats::peer_link_of_uncallable_realm_is_kept_open",
    ),
    (
        Fault::ForgetLives,
        "realm::tests::restored::peering_with_restored_realm_begins_again",
    ),
    (
        Fault::TrialTakesLink,
        "endpoint::tests::realms::claim_trial_takes_nothing_from_existing_link",
    ),
    (
        Fault::MakeWayAtOnce,
        "federation::tests::queue_messages_that_make_way_for_each_other_wait_longer_each_time",
    ),
    (
        Fault::TakeAllEarlyOnceRestored,
        "endpoint::tests::lives::early_data_with_unknown_life_waits_until_link_is_proven",
    ),
    (
        Fault::TakeGivenUpKey,
        "realm::tests::peer_removal::peer_removal_leaves_former_key_to_nobody",
    ),
    (
        Fault::NumbersOverLogin,
        "simulation::owners::group_created_during_other_login_belongs_to_creator",
    ),
    (
        Fault::ReadAsBound,
        "simulation::owners::mailbox_entries_are_shown_to_their_user_only",
    ),
    (
        Fault::TrustFirstNumber,
        "simulation::owners::outbox_of_copied_profile_sends_as_user_who_typed",
    ),
    (
        Fault::RelyOnNothing,
        "realm::tests::pairs::peer_commands_at_once_are_serializable",
    ),
    (
        Fault::OutboxOfAnybody,
        "client::outbox::tests::outbox_entries_of_other_account_are_not_sent",
    ),
    (
        Fault::NumbersWithoutWindow,
        "client::outbox::tests::outbox_number_is_not_issued_256_above_incomplete_one",
    ),
    (
        Fault::LifetimeFromDeparture,
        "client::outbox::tests::outbox_ttl_counts_while_entry_waits",
    ),
    (
        Fault::IgnoreToken,
        "client::outbox::tests::outbox_repeat_with_same_token_is_same_command",
    ),
    (
        Fault::BelieveDamage,
        "client::store::tests::profile_store_value_damaged_or_misplaced_is_refused",
    ),
    (
        Fault::FirstAddressOnly,
        "simulation::routes::connect_with_first_address_dead_uses_next",
    ),
    (
        Fault::LookUpOnce,
        "simulation::routes::watch_finds_realm_at_new_address",
    ),
    (
        Fault::NeedNetworkAtOnce,
        "simulation::routes::connect_without_network_waits_for_network",
    ),
    (
        Fault::ReusePositions,
        "realm::tests::positions::cursor_of_former_group_hides_nothing_in_group_made_again",
    ),
    (
        Fault::BelieveOldCursors,
        "realm::tests::lives::life_unknown_makes_read_begin_behind_confirmed_position",
    ),
    (
        Fault::ShareCursors,
        "realm::tests::positions::cursor_of_other_device_hides_nothing",
    ),
    (
        Fault::ListsUncharged,
        "realm::tests::limits::rate_limit_charges_list_for_entries_looked_up",
    ),
    (
        Fault::StrangersStay,
        "endpoint::tests::link_slots::link_slots_of_strangers_are_few_and_make_room_for_users",
    ),
    (
        Fault::AccountsStay,
        "endpoint::tests::link_slots::link_slots_of_account_with_many_links_make_room",
    ),
    (
        Fault::LockOwnerOut,
        "realm::tests::limits::password_guess_delay_spares_known_devices_and_subnets",
    ),
    (
        Fault::CountPerWorker,
        "endpoint::tests::floods::limits_are_shared_by_endpoints_behind_one_address",
    ),
    (
        Fault::ForgetNetworks,
        "rate_limit::tests::rate_limit_network_of_many_subnets_leaves_others_unaffected",
    ),
    (
        Fault::LetUsersForge,
        "realm::tests::rules::notice_content_from_user_or_peer_is_refused",
    ),
    (
        Fault::WatchOutlivesSession,
        "realm::tests::watches::watch_ends_with_its_session",
    ),
    (
        Fault::AskAtFirstOnly,
        "server::tests::seats::peer_request_goes_to_worker_that_has_link",
    ),
    (
        Fault::LeaveOutCallBack,
        "server::tests::seats::dial_back_follows_link_opened_by_peer_once",
    ),
    (
        Fault::DialWithoutEnd,
        "endpoint::tests::realms::claim_trial_of_unvouched_address_gets_three_datagrams",
    ),
    (
        Fault::TakeAllEarly,
        "realm::tests::peers::early_data_with_undoing_peer_request_is_refused",
    ),
    (
        Fault::TakeAnyKey,
        "realm::tests::peers::key_rotation_without_secret_of_new_key_is_refused",
    ),
    (
        Fault::SettleTwice,
        "realm::tests::peer_removal::peer_removal_is_not_changed_by_late_answer",
    ),
    (
        Fault::UnaskedWithoutEnd,
        "realm::tests::claims::introduction_of_uninvited_peers_is_rate_limited",
    ),
    (
        Fault::ForgetRemoval,
        "realm::tests::peer_removal::peer_removal_refuses_requests_in_progress",
    ),
    (
        Fault::EndUnsaid,
        "realm::tests::group_teardown::group_end_is_told_once_to_each_realm_with_members",
    ),
    (
        Fault::StoreWithoutShare,
        "realm::tests::limits::storage_quota_of_account_used_up_delays_writes",
    ),
    (
        Fault::WatchWithoutShare,
        "realm::mailboxes::watch_memory::tests::watch_memory_bounds_each_account_and_leaves_room_for_next",
    ),
    (
        Fault::EpochsWithoutEnd,
        "realm::tests::peers::peer_that_begins_many_epochs_is_rate_limited",
    ),
    (
        Fault::QueueWithoutShare,
        "realm::tests::fair::queue_filled_by_one_account_has_room_for_others",
    ),
    (
        Fault::OldReportsEnd,
        "realm::tests::expelled::membership_is_not_ended_by_message_about_former_one",
    ),
    (
        Fault::KeepForever,
        "realm::tests::retention::retention_deletes_old_entries_and_tells_of_unread_ones",
    ),
    (
        Fault::ReadAheadWithoutEnd,
        "realm::tests::watches::watch_over_many_mailboxes_reads_bounded_part_ahead",
    ),
    (
        Fault::RefuseInDoubt,
        "realm::tests::doubt::commit_that_may_be_written_is_answered_unknown",
    ),
    (
        Fault::ForgetHighest,
        "realm::tests::once::dedup_refusal_tells_highest_number",
    ),
    (
        Fault::TellTwice,
        "realm::tests::queue::queue_message_past_deadline_is_returned_before_its_turn",
    ),
    (
        Fault::GiveBackTwice,
        "realm::tests::queue::queue_message_returned_before_restart_is_not_returned_again",
    ),
];

/// A planted fault must be found within this many seeds.
const FOUND_WITHIN: u64 = 10_000;

/// Each fault is found by its seed. If the code has changed what the seed means, one of the first
/// ten thousand seeds finds it.
#[test]
fn planted_faults_are_found() {
    for (fault, known) in FOUND_BY_SEEDS {
        let found = on_thread(move || {
            faults::plant(Some(fault));
            let mut seeds = std::iter::once(known).chain(0..FOUND_WITHIN);
            seeds.find_map(|seed| {
                let wrong = run(seed, false).0.wrong;
                wrong.first().map(|first| (seed, first.clone()))
            })
        });
        let (seed, wrong) = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
        eprintln!("{fault:?} is found by seed {seed}: {wrong}");
    }
}

/// Each test fails in a process in which its fault is planted. That it passes without is seen where
/// it is run itself.
#[test]
fn planted_faults_fail_their_tests() {
    let this = std::env::current_exe().expect("a test binary has a path");
    let said = |arguments: &[&str], planted: &str| {
        let mut command = Command::new(&this);
        command.args(arguments).env(faults::VARIABLE, planted);
        let output = command.output().expect("a test binary can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    };
    let (_, all) = said(&["--list"], "");
    for (fault, test) in FOUND_BY_TESTS {
        let listed = format!("{test}: test");
        assert!(all.lines().any(|line| line == listed), "there is no {test}");
        let (passes, said) = said(&["--exact", test], &format!("{fault:?}"));
        assert!(!passes, "{fault:?} is not found by {test}: {said}");
        eprintln!("{fault:?} is found by {test}");
    }
}
