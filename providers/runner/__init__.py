"""Local models, each in one supervised child process that all web workers share.

Under `<data directory>/runner/` every model has five files, all readable by their owner alone:

    <model>.lock           held exclusively by the child for as long as it lives; a worker that gets
                           it may start a child and hands the lock on to it
    <model>.lease          held shared by every worker that uses the model; a child that gets it
                           exclusively is not used any more and ends
    <model>.json           where the child serves and its key, or why it failed (`state`)
    <model>.verified.json  which weights file has had its checksum confirmed
    <model>.log            what the child and its native code say, never prompts

Both locks are flock(2): the kernel drops them however a process ends, so a killed worker or child
leaves nothing behind that must be cleaned up.

`supervisor` is the workers' side, `__main__` the child's; `catalogue` says which models there are.
"""
