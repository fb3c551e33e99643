"""Official score of the Random Promoter DREAM Challenge 2022."""
