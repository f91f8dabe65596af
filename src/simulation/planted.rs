//! Tests of the tests: each planted fault makes one of them fail.

use std::process::Command;

use super::campaign::{on_thread, run};
use crate::faults::{self, Fault};

/// Faults that the simulator finds, each with a seed that finds it.
const FOUND_BY_SEEDS: [(Fault, u64); 28] = [
    (Fault::AnswerBeforeCommit, 5),
    (Fault::ForgetAnswer, 5),
    (Fault::IgnoreConflict, 8),
    (Fault::IgnoreFullDisk, 16),
    (Fault::ReusePacketNumber, 0),
    (Fault::DropParts, 0),
    (Fault::NeverRepeat, 3),
    (Fault::KeepAddress, 0),
    (Fault::SkipEntry, 0),
    (Fault::TakeSilenceForDelivery, 29),
    (Fault::QueueOutOfOrder, 1),
    (Fault::GiveUpPeer, 0),
    (Fault::FinishUnderFreshNumber, 23),
    (Fault::NoSalt, 1),
    (Fault::KeepNothing, 57),
    (Fault::OutboxInNoOrder, 63),
    (Fault::OutboxOfNobody, 158),
    (Fault::CancelWithoutVoid, 975),
    (Fault::ConfirmUnshown, 594),
    (Fault::ReadMeansShown, 24),
    (Fault::UnreadWithoutCursors, 0),
    (Fault::DropUnread, 7),
    (Fault::StoreWithoutShare, 30),
    (Fault::BelieveCopies, 12),
    (Fault::BelieveAnyLink, 199),
    (Fault::BelieveClaims, 30),
    (Fault::KeepFormerPeering, 96),
    (Fault::IntroduceOldAddress, 0),
];

/// Faults that other tests find, each with such a test.
const FOUND_BY_TESTS: [(Fault, &str); 66] = [
    (
        Fault::BelieveForever,
        "federation::tests::claims::silent_peer_is_tried_where_its_name_leads_by_now",
    ),
    (
        Fault::AskUsedAtOnce,
        "federation::tests::peer_that_finds_each_number_used_is_asked_seldom",
    ),
    (
        Fault::LeaveRemains,
        "realm::tests::peer_removal::a_realm_departs_whole_over_restarts",
    ),
    (
        Fault::OneEpoch,
        "realm::tests::queue::each_start_numbers_in_an_epoch_of_its_own",
    ),
    (
        Fault::WaitOnDeadLink,
        "endpoint::tests::realms::what_waits_on_a_forgotten_link_moves_to_the_next",
    ),
    (
        Fault::TellUnspecified,
        "realm::tests::peers::a_realm_that_has_moved_says_where_it_is",
    ),
    (
        Fault::KeepStaleMembership,
        "realm::tests::copying::membership_that_its_home_realm_does_not_know_ends_with_the_next_post",
    ),
    (
        Fault::PassRefusalsOn,
        "federation::tests::refusals::refusals_that_are_for_the_own_realm_to_give_are_not_passed_on",
    ),
    (
        Fault::ForgetFirstKey,
        "realm::tests::claims::an_uninvited_peer_that_comes_back_under_a_later_key_repeats_nothing",
    ),
    (
        Fault::TrustKnownKey,
        "realm::tests::claims::a_peer_that_calls_by_a_former_key_is_told_of_the_new_one_again",
    ),
    (
        Fault::TicketsWithoutEnd,
        "endpoint::tests::resume::ticket_is_good_for_a_day_and_for_one_user",
    ),
    (
        Fault::AnswerUnderKnownNonce,
        "endpoint::tests::resume::replayed_resume_is_answered_under_another_key",
    ),
    (
        Fault::AnyPlaceIsKnown,
        "endpoint::tests::resume::long_answer_goes_to_where_the_device_was",
    ),
    (
        Fault::PushOutOthers,
        "endpoint::tests::repeats::who_comes_back_often_pushes_nobody_else_out",
    ),
    (
        Fault::ForgetPath,
        "endpoint::tests::memory::path_is_remembered_by_the_next_process",
    ),
    (
        Fault::TakeCopyForOriginal,
        "simulation::owners::owner_of_a_copy_sends_nothing_twice",
    ),
    (
        Fault::BelieveAnyCall,
        "federation::tests::peer_links::peer_behind_a_firewall_is_reached_within_an_hour",
    ),
    (
        Fault::LetLinksIdleOut,
        "server::tests::seats::the_link_to_a_peer_that_can_open_none_is_kept_open",
    ),
    (
        Fault::ForgetLives,
        "realm::tests::restored::peering_with_a_restored_realm_is_begun_anew_though_it_is_the_same",
    ),
    (
        Fault::TrialTakesLink,
        "endpoint::tests::realms::a_trial_takes_nothing_from_the_link_that_is_there",
    ),
    (
        Fault::MakeWayAtOnce,
        "federation::tests::messages_that_make_way_for_each_other_wait_longer_each_time",
    ),
    (
        Fault::TakeAllEarlyOnceRestored,
        "endpoint::tests::lives::early_request_of_an_unknown_life_waits_for_proof",
    ),
    (
        Fault::TakeGivenUpKey,
        "realm::tests::peer_removal::key_that_a_removed_peer_has_given_up_is_nobodys",
    ),
    (
        Fault::NumbersOverLogin,
        "simulation::owners::owner_of_a_group_is_who_made_it",
    ),
    (
        Fault::ReadAsBound,
        "simulation::owners::owner_of_a_mailbox_is_who_is_shown_it",
    ),
    (
        Fault::TrustFirstNumber,
        "simulation::owners::owner_of_a_message_from_a_copy_is_who_typed_it",
    ),
    (
        Fault::RelyOnNothing,
        "realm::tests::pairs::commands_about_one_realm_have_an_order",
    ),
    (
        Fault::OutboxOfAnybody,
        "client::outbox::tests::outbox_leaves_entries_of_another_account_alone",
    ),
    (
        Fault::NumbersWithoutWindow,
        "client::outbox::tests::outbox_gives_no_number_out_that_the_realm_would_forget",
    ),
    (
        Fault::LifetimeFromDeparture,
        "client::outbox::tests::outbox_ttl_counts_while_an_entry_waits",
    ),
    (
        Fault::IgnoreToken,
        "client::outbox::tests::outbox_token_makes_a_repeat_the_same_command",
    ),
    (
        Fault::BelieveDamage,
        "client::store::tests::a_bent_or_misplaced_value_is_not_believed",
    ),
    (
        Fault::FirstAddressOnly,
        "simulation::routes::route_dead_first_address_next_one_is_taken",
    ),
    (
        Fault::LookUpOnce,
        "simulation::routes::route_moved_realm_is_found_by_a_watch",
    ),
    (
        Fault::NeedNetworkAtOnce,
        "simulation::routes::route_missing_network_is_waited_for",
    ),
    (
        Fault::ReusePositions,
        "realm::tests::positions::a_group_made_again_is_shown_from_its_beginning",
    ),
    (
        Fault::BelieveOldCursors,
        "realm::tests::lives::life_unknown_makes_reading_begin_at_what_is_confirmed",
    ),
    (
        Fault::ShareCursors,
        "realm::tests::positions::what_another_device_reads_is_not_hidden",
    ),
    (
        Fault::ListsUncharged,
        "realm::tests::limits::a_list_costs_its_asker_what_it_looks_up",
    ),
    (
        Fault::StrangersStay,
        "endpoint::tests::places::strangers_hold_few_places_and_make_room",
    ),
    (
        Fault::AccountsStay,
        "endpoint::tests::places::an_account_with_many_links_makes_room",
    ),
    (
        Fault::LockOwnerOut,
        "realm::tests::limits::a_guesser_keeps_known_devices_and_networks_waiting_for_nothing",
    ),
    (
        Fault::CountPerWorker,
        "endpoint::tests::floods::endpoints_behind_one_address_count_together",
    ),
    (
        Fault::ForgetNetworks,
        "rate_limit::tests::a_network_of_many_subnets_takes_from_nobody_else",
    ),
    (
        Fault::LetUsersForge,
        "realm::tests::rules::what_means_something_to_programs_is_the_realms_own",
    ),
    (
        Fault::WatchOutlivesSession,
        "realm::tests::watches::a_watch_ends_with_its_session",
    ),
    (
        Fault::AskAtFirstOnly,
        "server::tests::seats::a_peer_is_asked_at_the_worker_that_has_its_link",
    ),
    (
        Fault::LeaveOutCallBack,
        "server::tests::seats::a_peer_that_calls_is_called_back",
    ),
    (
        Fault::DialWithoutEnd,
        "endpoint::tests::realms::an_address_for_which_nobody_vouches_gets_three_datagrams",
    ),
    (
        Fault::TakeAllEarly,
        "realm::tests::peers::what_undoes_something_does_not_travel_early",
    ),
    (
        Fault::TakeAnyKey,
        "realm::tests::peers::a_peer_goes_by_no_key_but_its_own",
    ),
    (
        Fault::SettleTwice,
        "realm::tests::peer_removal::an_answer_that_comes_after_the_removal_changes_nothing",
    ),
    (
        Fault::UnaskedWithoutEnd,
        "realm::tests::claims::unasked_peers_come_at_a_rate",
    ),
    (
        Fault::ForgetRemoval,
        "realm::tests::peer_removal::what_a_removed_realm_has_under_way_is_refused",
    ),
    (
        Fault::EndUnsaid,
        "realm::tests::group_teardown::ended_group_is_told_to_each_realm_of_its_members_once",
    ),
    (
        Fault::StoreWithoutShare,
        "realm::tests::limits::an_account_has_so_much_kept_and_no_more",
    ),
    (
        Fault::WatchWithoutShare,
        "realm::watch_memory::tests::there_is_an_end_for_each_and_something_left_for_the_next",
    ),
    (
        Fault::EpochsWithoutEnd,
        "realm::tests::peers::a_peer_begins_few_epochs",
    ),
    (
        Fault::QueueWithoutShare,
        "realm::tests::fair::a_queue_that_one_account_has_filled_has_room_for_others",
    ),
    (
        Fault::OldWordsEnd,
        "realm::tests::expelled::word_of_a_former_membership_ends_no_other",
    ),
    (
        Fault::KeepForever,
        "realm::tests::retention::what_is_old_goes_and_its_reader_is_told_of_what_they_had_not_read",
    ),
    (
        Fault::ReadAheadWithoutEnd,
        "realm::tests::watches::a_watch_reads_ahead_no_more_than_it_may",
    ),
    (
        Fault::RefuseInDoubt,
        "realm::tests::doubt::a_failed_commit_is_answered_unknown",
    ),
    (
        Fault::ForgetHighest,
        "realm::tests::once::a_refused_number_is_told_the_highest",
    ),
    (
        Fault::TellTwice,
        "realm::tests::queue::a_message_whose_time_is_over_comes_back_before_its_turn",
    ),
    (
        Fault::GiveBackTwice,
        "realm::tests::queue::a_restart_gives_nothing_back_twice",
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

/// Each test passes, and fails in a process in which its fault is planted.
#[test]
fn planted_faults_fail_their_tests() {
    for (fault, test) in FOUND_BY_TESTS {
        let run = |planted: String| {
            let this = std::env::current_exe().expect("a test binary has a path");
            let mut command = Command::new(this);
            command
                .args(["--exact", test])
                .env(faults::VARIABLE, planted);
            let output = command.output().expect("a test binary can be run");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.success(), said)
        };
        let (passes, said) = run(String::new());
        assert!(passes && said.contains("1 passed"), "{test}: {said}");
        let (passes, said) = run(format!("{fault:?}"));
        assert!(!passes, "{fault:?} is not found by {test}: {said}");
        eprintln!("{fault:?} is found by {test}");
    }
}
