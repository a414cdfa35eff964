from ireasoner_cli.app import main

main()
