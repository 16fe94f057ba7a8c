"""The one error that a user can cause and mend."""


class UserError(Exception):
    """A wrong request: a bad path, option or file. The message is one line that names it and says what to do.

    The command line prints it and exits with status 2, without a traceback.
    """

    one_process = False  # of several: whether it alone has the complaint, so that the others cannot say it
