"""What every page needs: keys for results, uploads, work in the background, words for errors."""
