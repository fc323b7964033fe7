"""The events in the log.

They are named ``noun.verb_in_past``; callers add the details as keywords::

    settings.warned         a setting is valid but may be a mistake
    settings.rejected       settings that were read again for replaced secrets are not valid: the old secrets stay
    secret.replaced         a secret has changed and is used from now on
    tls.replaced            CA_BUNDLE or the client certificate has changed: new connections use it
    tls.rejected            CA_BUNDLE or the client certificate has changed and cannot be used: the former one stays
    plugin.loaded           an installed package added a processor
    plugin.failed           a processor raised outside of ``process``
    component.failed        a method of a component raised or returned a wrong value: the daemon goes on without it
    component.restored      that method works again
    component.crashed       the ``run`` of a component failed or ended: the daemon ends
    daemon.started          the daemon polls from now on
    daemon.paused           an operator has paused the daemon, now or before this start: nothing is claimed
    daemon.resumed          an operator has ended the pause
    log.level_set           another level is logged from now on, until the next start at the latest
    daemon.hung_up          SIGHUP: secrets are read again, what was paused is tried
    daemon.stopped          the daemon ended after a signal
    daemon.crashed          an unhandled exception, in the main or another thread
    exception.caught        an exception in a callback, asyncio task or destructor that nothing awaits
    poll.failed             the first of several failed polls
    poll.recovered          the first good poll after failed ones
    task.dropped            the due time of a listed task is too long ago: there is no reminder
    poll.cut                the list ended too early: the tasks before its end are used
    record.skipped          a listed record that cannot be used
    type.skipped            tasks are listed whose type no processor here takes: they stay pending
    type.gone               no task of that type is listed any more
    task.completed          a task ended with a result
    task.failed             a task ended failed: the task itself is at fault
    task.rejected           the parameters of a task cannot be used: it fails
    task.released           a task was given back and runs again after a delay
    task.taken              a task was marked in_progress and turned out to be gone or final: it is not processed
    task.state_repaired     a mark without an answer may have overwritten the outcome: the state was sent again
    task.attempt_failed     an attempt failed, with this error
    task.crashed            a bug of the daemon in one task
    task.isolated           a task was in flight at two crashes and runs isolated now
    task.not_released       a source failed to release an unfinished task: its claim must expire
    task.revoked            a claim was lost or cancelled upstream: its task was stopped
    push.connected          messages of the task API end the wait for the next poll
    push.disconnected       no messages arrive: polls come in their intervals, and the connection is tried again
    claims.not_renewed      claims cannot be renewed at the source
    claims.renewed          claims can be renewed again
    claims.reaped           the owner of these tasks has died: they are pending again
    lease.failed            no session shows that this process lives: nothing is claimed, others may take its tasks
    lease.restored          there is such a session again
    queue.failed            Redis cannot be used: tasks are found in PostgreSQL, and the queues are repaired later
    queue.restored          Redis can be used again
    queue.repaired          the queues in Redis did not have every queued task, or had ids of others
    queue.unsent            (debug) the daemon ends while Redis does not know all changes
    task.cancelled          a task was cancelled before it was started
    task.deduplicated       an equal task was completed before: this one has its artifacts, and was not started
    task.retried            a task failed and is queued again, because it has retries left
    task.killed             a task took longer than any may: it fails
    artifact.rejected       an artifact is larger than allowed: its task fails
    index.missed            each claim reads a long table, because an index is missing
    task.quarantined        three isolated runs of a task killed the process: it is not started again
    recovery.started        tasks were in flight when a process died, and so many of them wait to run isolated
    step.not_stored         an answer inside a task is too large to be stored: after a crash its call is made again
    steps.failed            the answers inside tasks cannot be stored or read
    steps.restored          the answers inside tasks can be stored and read again
    result.lost             disk and process failed together: put the task back to pending
    text.set_aside          a model fails for one text and serves others: the text is retried after growing delays
    call.given_up           a model call hangs while later ones are served: its texts are sent again in parts
    cost.not_counted        MODEL_PRICES has no price for a model: its calls are missing from the cost
    model.crashed           a bug of the daemon or of a provider in one model call
    delivery.acknowledged   the task API has the outcome
    delivery.deferred       an outcome was not acknowledged: it is reported again later
    delivery.refused        an outcome is refused for good: a dead letter
    delivery.expired        an outcome is of no use any more: it is deleted, even where a sink lacks it
    delivery.lost           another worker has the claim by now: the result is not needed
    delivery.unverified     results are acknowledged by a status alone, which cannot be checked: once, and no fault
    delivery.held           the source asks for a pause: nothing is reported until it ends
    delivery.resumed        outcomes are reported again
    delivery.crashed        a bug of the daemon in one delivery
    sink.failed             a sink did not take a result: it is written again later
    sink.disabled           SINKS names a sink whose address is not set: it receives nothing
    sink.restored           the sink takes results again
    mail.skipped            there is no mail for a result, because no address is known
    sink.not_discarded      a sink still has a result that the source has refused
    outbox.awaited          another daemon holds the outbox: this one waits
    outbox.recovered        outcomes of an earlier run were found
    outbox.failed           a commit failed
    outbox.restored         commits succeed again
    outbox.migrated         the outbox had the schema of an earlier release and is converted
    outbox.foreign          the outbox holds results of a source that is not selected: they stay, and are not delivered
    outbox.salvaged         the outbox was damaged and set aside: what could be read was copied
    outbox.requested        an operator's retry or drop was carried out
    token.refreshed         there is a new access token
    token.failed            a token request failed
    token.refused           the task API answered 401: the request is repeated with another token
    token.accepted          a token was valid for its whole life again
    breaker.opened          a remote counts as down
    breaker.closed          a remote that was down answers again
    remote.paused           a remote asked for a pause, or an operator must act
    remote.resumed          a paused remote is called again
    request.failed          a bug of the daemon in an answer of the ops port
    drain.started           nothing new is claimed
    drain.cut               these tasks were stopped at the end of the grace period
    drain.finished          everything that ran has ended
    drain.forced            the process ended at once
    traces.failed           the receiver of traces takes none: spans are dropped, and nothing waits for it
    traces.restored         it takes them again
    log.failed              a line of another library could not be rendered
    log.dropped             the log was not read for a while: so many lines are missing
"""
