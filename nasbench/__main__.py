from nasbench.cli import main

main()
