"""`python -m hf_hybrid COMMAND OPTIONS` is `hf-hybrid COMMAND OPTIONS`; launchers of processes start it."""

from hf_hybrid.commands.console import main

if __name__ == "__main__":
    main()
