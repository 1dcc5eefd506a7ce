from art_atmc.cli import main

main()
