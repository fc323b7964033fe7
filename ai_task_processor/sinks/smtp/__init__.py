"""Results as e-mail, by aiosmtplib: those with an address in ``to`` or ``email``, and with ``subject`` and ``text``.

What a result lacks comes from elsewhere: subject and text from the templates ``SMTP_SUBJECT`` and ``SMTP_TEXT``, the
address from the source, if that looks addresses up (``Services.lookups``).

A connection for each message. ``Message-ID`` derives from source and task: it is the same when a message is repeated,
which happens after a kill, and when the answer to its last byte was lost. A recipient or a message that the server
refuses for good (5xx) is not offered again before a restart or SIGHUP (RFC 5321 §4.2.1). No failure of a sink makes a
dead letter: the result stays in the outbox until ``outbox drop``.
"""
